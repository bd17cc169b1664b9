"""The commands of launch/evaluate.py, one file each kind."""
