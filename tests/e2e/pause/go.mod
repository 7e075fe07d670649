module meshhook.io/pause

go 1.21
