"""What the stages share: configs, runs, files, mining, scores."""
