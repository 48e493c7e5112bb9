"""Label archives and serve streams on a Ray cluster; only these modules import Ray, and only when they are asked to."""
