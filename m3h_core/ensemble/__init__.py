"""Unlike learners that stand in one model beside the network."""
