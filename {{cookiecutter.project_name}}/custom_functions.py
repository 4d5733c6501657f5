"""Your own functions, by the name that ingredients.ini calls them.

A registered function takes settings from its section and returns what the recipe calls. This one is called by

    [training.preprocess]
    @preprocess = divide_by_255

Its section has no settings, so `wrapper` takes none; a setting there would be an argument here. In the same way you
can add to the registries load_dataset, augment, loss, optimizer, schedule, backbone and download_function: look into
pantry/ for what each of them returns.
"""

from core import registry


@registry.preprocess.register("divide_by_255")
def wrapper():
    def preprocess(input):  # one image: uint8 (C, H, W), 0 to 255
        return input / 255.0

    preprocess.of_batch = preprocess  # the same for many at once (N, C, H, W), where the data is in memory: quicker
    return preprocess
