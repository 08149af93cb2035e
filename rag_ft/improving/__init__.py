"""What makes a version from the one before: what it takes over, what has changed, what decides."""
