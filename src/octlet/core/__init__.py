"""What every room knows: errors, labels, preprocessing, the model file, predictions."""
