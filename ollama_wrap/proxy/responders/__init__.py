"""What can turn a Call into a Reply, or raise Unavailable so that the next is tried."""
