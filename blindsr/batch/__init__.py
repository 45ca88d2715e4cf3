"""A folder of pictures, with any estimator: command line, inputs, the run, records."""
