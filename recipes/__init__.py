"""Recipes for a folder of images of one's own: looked at without labels, written as plain configs of the stages."""
