"""The only room that joins codes, noise laws and straggler statistics: Problem in, Plan out."""
