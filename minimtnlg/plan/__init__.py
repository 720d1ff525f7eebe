"""What a job would need before it is started: FLOPs, memory, time, and the best layout."""
