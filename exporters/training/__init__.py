"""fit, evaluate and predict on the torch module, as Keras does them."""
