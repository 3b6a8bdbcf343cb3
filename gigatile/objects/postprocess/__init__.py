"""From what a model says of each pixel to objects: labels of one window, by a method that the user names."""
