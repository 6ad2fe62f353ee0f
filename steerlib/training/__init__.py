"""Training a handful of numbers that act on a frozen model: settings, reward, loop and checkpoint, shared by `dso` and `lora`."""
