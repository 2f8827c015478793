"""Folders of image files: found, decoded, kept in memory, cached or streamed."""
