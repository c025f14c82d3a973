"""What `cgt doctor` finds out: what is installed, what the machine has, and how ranks talk."""
