"""What the method is compared with or started from, one file each; and every clustering of given features, judged."""
