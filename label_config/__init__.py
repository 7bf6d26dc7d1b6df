"""Classes, Label Studio labelling configurations and answers; standard library only."""
