"""The folder that nnU-Net is pointed at: ``export nnUNet_extTrainer="$(nnunet-ext path)"``."""
