"""What everything stands on: errors, the console, ranks, the device, files."""
