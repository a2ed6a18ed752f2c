"""Is the synthetic sample like real images, and does seeing shape pay on it as much as on ice?"""
