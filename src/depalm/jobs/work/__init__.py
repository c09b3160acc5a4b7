"""What training and generation of a run do; it takes torch, and is imported when a job runs."""
