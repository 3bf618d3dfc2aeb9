"""Write docs/settings.md anew."""

from m3h_pipeline.config.reference import write_reference

if __name__ == "__main__":
    print(write_reference())
