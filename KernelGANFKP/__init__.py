"""Estimator 2: adversarial, on the image's own patches (KernelGAN-FKP, and KernelGAN as its baseline)."""
