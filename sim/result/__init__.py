"""Step, memory and job -> Result: sections, curve, bottleneck, changes worth trying, bands."""
