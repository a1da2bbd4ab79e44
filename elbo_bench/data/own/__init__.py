"""The data of the user: array files and folders of images."""
