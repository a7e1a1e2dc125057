"""A node in a private namespace: real HTB, real traffic, the very daemon. Leaves nothing behind.

Rooms: `cast` says which slices send what, `traffic` sends and receives, `node` lives inside the namespaces, `stage`
stays outside and shows. The program that shows and the node share a pipe: when it closes, however that came about, the
node ends, and as the first process of its process namespace it takes everything else with it.
"""
