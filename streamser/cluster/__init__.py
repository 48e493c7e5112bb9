"""Label archives and serve streams on a Ray cluster. Only these modules import Ray, and only when it is used."""
