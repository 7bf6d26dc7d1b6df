"""`pixbal demo`: whole rounds in a real Label Studio with a simulated annotator."""
