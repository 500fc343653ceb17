"""What a platform is made from, host trees and Kubernetes objects, in an archive that is the same for the same."""
