"""What runs in the process that trains: solver loop, LR schedule monitor, prototxt, data sources, snapshots."""
