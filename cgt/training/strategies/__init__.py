"""How the processes of a run train one network together, one file a strategy."""
