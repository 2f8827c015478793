"""What everything else uses: errors, the console, ranks, the device, files."""
