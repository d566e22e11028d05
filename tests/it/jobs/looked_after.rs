//! Dead jobs: listed, tried again and removed, by administrators of their tenant and from the command line.
