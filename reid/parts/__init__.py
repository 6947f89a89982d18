"""Plain modules and functions the methods are composed of: tensors in, tensors out, no configuration, no labels."""
