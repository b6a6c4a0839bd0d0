"""Programs that fit a training to the machine it runs on."""
