"""Training: the Lightning shell around one line of maths, ascend the mean of the bound."""
