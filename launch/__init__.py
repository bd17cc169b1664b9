"""What a person starts: train, report."""
