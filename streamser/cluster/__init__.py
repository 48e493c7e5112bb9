"""Label archives, serve streams and train folds on a Ray cluster. Only these modules import Ray, when it is used."""
