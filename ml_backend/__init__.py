"""The Label Studio ML backend: protocol, store, workflow, worker and command line."""
