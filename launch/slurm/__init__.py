"""Launch files for accelerate and clusters: data, found with `importlib.resources.files("cgt.launch")`."""
