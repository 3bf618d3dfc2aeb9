"""Write the Great Expectations suites of all contracts anew."""

from m3h_pipeline.contracts.suites import write_suites

if __name__ == "__main__":
    for suite_file in write_suites():
        print(suite_file)
