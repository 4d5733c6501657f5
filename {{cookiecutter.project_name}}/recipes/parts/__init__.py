"""What the recipes share: no scripts."""
