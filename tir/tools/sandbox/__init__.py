"""A sandbox for model-written Python that needs neither root nor a container tool."""
