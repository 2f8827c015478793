"""What the README's figures come from; each script runs by itself and writes its numbers to `results/`."""
