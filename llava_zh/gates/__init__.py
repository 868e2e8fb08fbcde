"""What everything from outside passes through: names, links, pictures, JSON, text, and limits on all of them."""
