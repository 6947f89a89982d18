"""Training recipes that more than one method is published with."""

from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule

# Luo et al., "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (CVPR workshops 2019), section 3.
BAG_OF_TRICKS = Recipe(
    image_size=(256, 128),
    sampler=Sampler(identities=16, images=4, epoch="images_once"),
    augment=Augment(crop_padding=10, random_erasing=0.5),
    optimiser=Optimiser(name="adam", weight_decay=5e-4),
    schedule=Schedule(name="S3", epochs=120, peak_lr=3.5e-4),
    protocol=Protocol(distance="cosine", normalise=True),
)
