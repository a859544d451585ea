"""Readers: files of one format each -> Checkpoint. They need numpy, h5py and safetensors only."""
