"""Where bytes lie: directories of this machine and buckets of object stores, behind one face."""
