"""What the method is compared with or started from, one file each; run as `python -m methods.NAME`."""
