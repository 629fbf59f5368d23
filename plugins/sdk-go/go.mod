module holm

go 1.25
