"""What runs an experiment: config, record, store, launch. It knows no experiment."""
