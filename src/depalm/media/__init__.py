"""Image, audio and video files become tensors, in processes that may die."""
