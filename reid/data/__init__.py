"""Everything between a raw folder and a batch: readers, packing, splits, sampling, augmentation."""
